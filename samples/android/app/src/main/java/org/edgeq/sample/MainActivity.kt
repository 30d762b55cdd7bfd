package org.edgeq.sample

import android.app.Activity
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.os.Bundle
import android.widget.TextView
import com.chaquo.python.Python
import com.chaquo.python.android.AndroidPlatform
import java.nio.ByteBuffer
import kotlin.concurrent.thread

/** Shows what the picture `assets/photo.jpg` holds; a camera's bitmap goes the same way. */
class MainActivity : Activity() {
    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        val text = TextView(this).also { setContentView(it) }
        if (!Python.isStarted()) Python.start(AndroidPlatform(this))
        thread {
            val found = classify(assets.open("photo.jpg").use { BitmapFactory.decodeStream(it) })
            runOnUiThread { text.text = found }
        }
    }

    private fun classify(picture: Bitmap): String {
        val bitmap = picture.copy(Bitmap.Config.ARGB_8888, false)
        val pixels = ByteBuffer.allocate(bitmap.byteCount).also { bitmap.copyPixelsToBuffer(it) }
        val module = Python.getInstance().getModule("classify")
        return module.callAttr("classify", pixels.array(), bitmap.width, bitmap.height).toString()
    }
}
